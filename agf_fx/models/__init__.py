"""Networks to explain: the bundled ones, torchvision's, and those that a user's own factory builds."""

from agf_fx.models.load import LoadedModel, check_model, load_model
from agf_fx.models.names import class_index, read_class_names

__all__ = ["LoadedModel", "check_model", "class_index", "load_model", "read_class_names"]
