"""Images to a dataset folder: `convert(source, dataset, ConvertConfig(...))`, `verify(dataset)`. No TensorFlow."""

from irv2data.convert.config import ConvertConfig
from irv2data.convert.run import Report, convert
from irv2data.convert.verify import Problem, verify

__all__ = ["ConvertConfig", "Problem", "Report", "convert", "verify"]
