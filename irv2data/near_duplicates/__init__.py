"""Which images of a dataset look alike: copies, and what is left of a copy that was resized, cropped or saved again.

Two images are near each other when few bits of their perceptual hashes differ (pHash, 64 bits, of the library
ImageHash). Groups are transitive: whatever is near a member belongs to the group, so two members may be further apart.
A mirrored or turned copy has another hash and is not found. An image with hardly any contrast has a hash of noise, so
it is compared by its bytes alone.

This stands above the converter, whose workers it uses: they outlive a decoder that crashes or hangs.
"""

from irv2data.near_duplicates.found import Damaged, Group, Member, NearDuplicates
from irv2data.near_duplicates.hashing import require_imagehash
from irv2data.near_duplicates.search import DISTANCE, MOST_DISTANCE, labels_of, near_duplicates

__all__ = [
    "DISTANCE",
    "MOST_DISTANCE",
    "Damaged",
    "Group",
    "Member",
    "NearDuplicates",
    "labels_of",
    "near_duplicates",
    "require_imagehash",
]
