"""`croissant.json`, by which catalogues and other libraries know a dataset: its files, splits, classes and keys.

The form is Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html). TFRecord has no media type
and no reader among those of Croissant, so the records are described, and classes and splits are there inline.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from typing import Any

from irv2data import schema
from irv2data.index import FLOAT, INT
from irv2data.labels import CLASS, CLASSES, NONE
from irv2data.manifest import Contents, Shard

CROISSANT = "croissant.json"
_PUBLISHER = "irv2data"
_NAME = "irv2data"  # not the folder's: its bytes must not depend on where it lies
_TFRECORD = "https://www.tensorflow.org/tutorials/load_data/tfrecord"  # a format without a media type goes by its page
_SHARDS = "shards"
# Of the three purposes that Croissant knows, those that a split's name tells.
_PURPOSES = {
    "train": "Training", "training": "Training",
    "validation": "Validation", "valid": "Validation", "val": "Validation", "dev": "Validation",
    "test": "Test", "testing": "Test",
}  # fmt: skip
# To the letter what Croissant 1.0 prescribes.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant_text(
    contents: Contents, splits: Mapping[str, Sequence[Shard]], *, appended: int = 0, present: bytes | None = None
) -> str | None:
    """The content of `croissant.json`; equal arguments give equal text.

    What only its owner knows is left out: license, citation, address, date. Written into the file by hand, it stays
    there: whatever the file has beside our own keys is kept, and so are its name and description.

    Args:
        contents: What all records have in common.
        splits: Split name to its shards.
        appended: How often shards were added.
        present: The file that is there; None if there is none.

    Returns:
        The text; None where the file that is there was written by others, and is theirs.
    """
    old = _parse(present)
    if old and not _ours(old):
        return None
    purposes = {name for name in splits if name in _PURPOSES}
    metadata: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": old.get("name", _NAME),
        "description": old.get("description", "Variable-size images in TFRecord shards, with an index beside them."),
        "version": f"1.{appended}.0",
        "sdPublisher": {"@type": "sc:Organization", "name": _PUBLISHER},
        "distribution": _distribution(splits),
        "recordSet": [
            _splits(splits, purposes=len(purposes) == len(splits)),
            *([_classes(contents)] if contents.labels in (CLASS, CLASSES) and contents.classes else []),
            *([_records(contents)] if any(splits.values()) else []),
        ],
    }
    metadata |= {name: value for name, value in old.items() if name not in metadata}
    return json.dumps(metadata, indent=1) + "\n"


def _parse(present: bytes | None) -> dict[str, Any]:
    """The object in a file; empty where there is no file, or a damaged one."""
    try:
        content = json.loads(present or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _ours(content: Mapping[str, Any]) -> bool:
    publisher = content.get("sdPublisher")
    return isinstance(publisher, dict) and publisher.get("name") == _PUBLISHER


def _distribution(splits: Mapping[str, Sequence[Shard]]) -> list[dict[str, Any]]:
    """Every shard with its digest, and the sets of them: all, and each split's."""
    files = {name: [printable(shard.file) for shard in shards] for name, shards in splits.items()}
    sets = {_SHARDS: [file for names in files.values() for file in names]}
    sets |= {f"{_SHARDS}-{name}": names for name, names in files.items()}
    return [
        *(
            {
                "@type": "cr:FileSet",
                "@id": name,
                "name": name,
                "encodingFormat": _TFRECORD,
                "includes": _patterns(members),
            }
            for name, members in sets.items()
            if members
        ),
        *(
            {
                "@type": "cr:FileObject",
                "@id": f"{_SHARDS}-{split}/{number}",  # not the file's name, in which others may have spaces
                "name": printable(shard.file),
                "contentUrl": printable(shard.file),
                "contentSize": f"{shard.bytes} B",
                "encodingFormat": _TFRECORD,
                "sha256": shard.sha256,
            }
            for split, shards in splits.items()
            for number, shard in enumerate(shards)
        ),
    ]


def _patterns(files: Sequence[str]) -> list[str]:
    """Glob patterns of files: one for those that are called `NAME-00000-of-00016.tfrecord`, else their names."""
    found: dict[str, None] = {}
    for file in files:
        parts = file.rsplit("-", 3)
        numbered = len(parts) == 4 and parts[2] == "of" and parts[3].endswith(".tfrecord")
        found[f"{glob.escape(parts[0])}-*-of-{parts[3]}" if numbered else glob.escape(file)] = None
    return list(found)


def _splits(splits: Mapping[str, Sequence[Shard]], *, purposes: bool) -> dict[str, Any]:
    fields = [_field("splits/name", "sc:Text"), _field("splits/records", "sc:Integer")]
    rows: list[dict[str, Any]] = [
        {"splits/name": name, "splits/records": sum(shard.records for shard in shards)}
        for name, shards in splits.items()
    ]
    if purposes:
        fields.append(_field("splits/url", "sc:URL"))
        for row in rows:
            row["splits/url"] = f"cr:{_PURPOSES[row['splits/name']]}Split"
    return _inline("splits", "cr:Split", fields, rows)


def _classes(contents: Contents) -> dict[str, Any]:
    fields = [_field("classes/label", "sc:Integer"), _field("classes/name", "sc:Text")]
    rows = [{"classes/label": number, "classes/name": printable(name)} for number, name in enumerate(contents.classes)]
    return _inline("classes", "sc:Enumeration", fields, rows)


def _inline(name: str, type: str, fields: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "dataType": type,
        "key": {"@id": f"{name}/name"},
        "field": fields,
        "data": rows,
    }


def _records(contents: Contents) -> dict[str, Any]:
    """The keys of a record: `tf.train.Example` names its features as a table names its columns."""
    fields: list[dict[str, Any]] = []

    def add(name: str, type: str, key: str, text: str, **more: Any) -> None:
        source = {"fileSet": {"@id": _SHARDS}, "extract": {"column": printable(key)}}
        fields.append({**_field(f"records/{name}", type), "description": text, "source": source, **more})

    add("image", "sc:ImageObject", contents.encoded_key, "The compressed image.")
    if not contents.adopted:
        add("format", "sc:Text", schema.FORMAT, "JPEG or PNG.")
        add("height", "sc:Integer", schema.HEIGHT, "Height in pixels.")
        add("width", "sc:Integer", schema.WIDTH, "Width in pixels.")
        add("filename", "sc:Text", schema.FILENAME, "Path of the source, relative to what was converted.")
        add("sha256", "sc:Text", schema.SHA256, "Hexadecimal SHA-256 of the compressed image.")
    label = contents.label_key if contents.adopted else schema.LABEL
    several = {"repeated": True} if contents.labels == CLASSES else {}
    if contents.labels in (CLASS, CLASSES):
        known = {"references": {"field": {"@id": "classes/label"}}} if contents.classes else {}
        add("label", "sc:Integer", label, "Number of the class.", **several, **known)
        if not contents.adopted:
            add("text", "sc:Text", schema.TEXT, "Name of the class.", **several)
    elif contents.labels != NONE:
        add("target", "sc:Float", contents.label_key if contents.adopted else schema.TARGET, "The number to predict.")
    for number, (name, type) in enumerate(contents.columns.items()):
        kind = {INT: "sc:Integer", FLOAT: "sc:Float"}.get(type, "sc:Text")
        add(f"column{number}", kind, name, f"Column {printable(name)} of the source.")
    return {"@type": "cr:RecordSet", "@id": "records", "name": "records", "field": fields}


def _field(name: str, type: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": type}


def printable(name: str) -> str:
    """A name as Unicode: bytes that are not UTF-8, which other libraries' JSON cannot hold, as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
