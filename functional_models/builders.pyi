from builders import *
from builders import __all__ as __all__
