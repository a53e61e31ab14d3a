"""Images to a dataset folder: `convert(source, dataset, ConvertConfig(...))`, `verify(dataset)`. No TensorFlow."""

from irv2data.convert.adopt import Adoption, adopt
from irv2data.convert.config import ConvertConfig
from irv2data.convert.repair import Repair, repair
from irv2data.convert.run import Report, convert
from irv2data.convert.verify import Problem, verify

__all__ = ["Adoption", "ConvertConfig", "Problem", "Repair", "Report", "adopt", "convert", "repair", "verify"]
