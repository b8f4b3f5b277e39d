"""The version of the package and of the shim protocol it speaks."""

__version__ = "0.1.0"

#: Version of the frames between agent and shim; both sides name it in their first message.
PROTOCOL = 1
