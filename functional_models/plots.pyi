from plots import *
from plots import __all__ as __all__
