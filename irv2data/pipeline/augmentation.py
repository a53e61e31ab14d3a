"""What is changed at random in finished images: the options. `irv2data.device.augment` does it, the plan draws for it.

Every augmentation has a random stream of its own, named after it: switching one on or off changes nothing that another
one does. An image carries its uniform numbers in `draws`, behind those that are free for the user.
"""

from __future__ import annotations

from dataclasses import dataclass

from irv2data.errors import UsageError

DRAWS = 8  # uniform numbers that each image of a batch carries for the user's own augmentation in the step
NEAREST, REFLECT, CONSTANT = "nearest", "reflect", "constant"
FILL_MODES = (NEAREST, REFLECT, CONSTANT)
MOST_MAGNITUDE = 30  # of RandAugment
_MOST_LAYERS = 8

# The uniform numbers that an image uses up, by the name of their stream.
_COUNTS = {
    "translate": 2,
    "rotate": 1,
    "zoom": 2,
    "shear": 1,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 1,
    "grayscale": 1,
    "erase": 5,
    "mixup": 2,
    "cutmix": 4,
}


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of finished images, on the device; each image has draws of its own.

    In the order they are made: geometry (all of it in one resampling), RandAugment, colours, erasing, mixing.

    Attributes:
        translate: Largest shift as a share of the image's height and width, one number for both or a pair; as
            `ImageDataGenerator`'s `height_shift_range` and `width_shift_range`.
        rotate: Largest angle in degrees, either way.
        zoom: Largest change of size, as a share; rows and columns each have their own, as with `ImageDataGenerator`.
        shear: Largest shear angle in degrees, either way.
        fill_mode: What geometry puts beyond the image: `nearest` (its edge, repeated), `reflect` or `constant`.
        fill_value: What `constant` puts there, in [0, 255].
        brightness: Pixels are multiplied by 1 - brightness to 1 + brightness.
        contrast: Their distance to the image's mean grey is multiplied by 1 - contrast to 1 + contrast.
        saturation: Their distance to their own grey is multiplied by 1 - saturation to 1 + saturation.
        hue: Largest turn of the colours about grey, as a share of a full turn, either way.
        grayscale: Share of the images that lose their colours.
        rand_layers: RandAugment: how many operations an image gets, drawn anew for each image; 0 for none.
        rand_magnitude: RandAugment: how strong they are, 0 to 30.
        erase: Share of the images that a random box is erased of.
        erase_value: What is put there, in [0, 255].
        mixup: Parameter of the Beta distribution that images are blended by; 0 for never.
        cutmix: Parameter of the Beta distribution that a box's area is drawn from, which the partner's pixels fill; 0
            for never. With both, each image has one of the two, as likely as the other.

    Raises:
        UsageError: A value is out of its range; the message names option, rule and value.
    """

    translate: float | tuple[float, float] = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    fill_mode: str = NEAREST
    fill_value: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    rand_layers: int = 0
    rand_magnitude: float = 9.0
    erase: float = 0.0
    erase_value: float = 127.5
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.translate, list):  # as JSON gives a pair back
            object.__setattr__(self, "translate", tuple(self.translate))
        shifts = self.translate if isinstance(self.translate, tuple) else (self.translate,)
        if len(shifts) not in (1, 2):
            raise UsageError(f"translate must be a number or a pair (rows, columns), got {self.translate!r}")
        ranges: list[tuple[str, object, float, float]] = [("translate", shift, 0.0, 1.0) for shift in shifts]
        for name, least, most in (
            ("rotate", 0.0, 180.0),
            ("zoom", 0, 0.99),
            ("shear", 0, 89),
            ("fill_value", 0, 255),
            ("brightness", 0, 1),
            ("contrast", 0, 1),
            ("saturation", 0, 1),
            ("hue", 0, 0.5),
            ("grayscale", 0, 1),
            ("rand_magnitude", 0, MOST_MAGNITUDE),
            ("erase", 0, 1),
            ("erase_value", 0, 255),
            ("mixup", 0, 100),
            ("cutmix", 0, 100),
        ):
            ranges.append((name, getattr(self, name), least, most))
        for name, value, least, most in ranges:
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
                raise UsageError(f"{name} must be a number between {least} and {most}, got {value!r}")
        layers = self.rand_layers
        if not isinstance(layers, int) or isinstance(layers, bool) or not 0 <= layers <= _MOST_LAYERS:
            raise UsageError(f"rand_layers must be a whole number between 0 and {_MOST_LAYERS}, got {layers!r}")
        if self.fill_mode not in FILL_MODES:
            raise UsageError(f"fill_mode must be one of {', '.join(FILL_MODES)}, got {self.fill_mode!r}")

    @property
    def shifts(self) -> tuple[float, float]:
        """Largest shift of rows and of columns, as shares of the height and the width."""
        return self.translate if isinstance(self.translate, tuple) else (self.translate, self.translate)

    @property
    def warps(self) -> bool:
        """Whether geometry changes."""
        return bool(max(self.shifts) or self.rotate or self.zoom or self.shear or self.rand_layers)

    @property
    def colors(self) -> bool:
        """Whether colours change, RandAugment apart."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue or self.grayscale)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, rows 2i and 2i + 1 with each other, and so their labels."""
        return bool(self.mixup or self.cutmix)

    @property
    def streams(self) -> dict[str, int]:
        """The random streams in use, in the order their numbers have in `draws`, and how many numbers each takes."""
        used = {name: count for name, count in _COUNTS.items() if name != "translate" and getattr(self, name)}
        if max(self.shifts):
            used = {"translate": _COUNTS["translate"], **used}
        # An operation and a direction for each layer, each layer a stream: one more changes none of the others.
        used |= {f"rand_augment {layer}": 2 for layer in range(self.rand_layers)}
        return used | ({"mixup or cutmix": 1} if self.mixup and self.cutmix else {})

    @property
    def num_draws(self) -> int:
        """Numbers that an image carries in all: float32 [B, num_draws]."""
        return DRAWS + sum(self.streams.values())

    def places(self) -> dict[str, slice]:
        """Which columns of `draws` are whose."""
        places, first = {}, DRAWS
        for name, count in self.streams.items():
            places[name] = slice(first, first + count)
            first += count
        return places
