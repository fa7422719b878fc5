from . import blas

blas.install()
