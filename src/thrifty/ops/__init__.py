"""The operations, one a file: meaning in plain torch, derivatives of every order and mode, native kernels beneath."""
