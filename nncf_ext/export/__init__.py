"""What both frameworks' ONNX files have in common. An adapter gives a float graph with marked quantizers (`marked`)."""

from nncf_ext.export.lower import lower
from nncf_ext.export.marked import Levels
from nncf_ext.export.model import export_onnx
from nncf_ext.export.parity import ExportWarning, Parity, integer_operators, parity

__all__ = ["ExportWarning", "Levels", "Parity", "export_onnx", "integer_operators", "lower", "parity"]
