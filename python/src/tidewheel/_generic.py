"""What `typing.Generic` is to a type checker, for the run time: importing typing would take longer than all the rest."""


class Generic:
    """``class Handle(Generic[R])`` and ``Handle[int]`` work, and mean the class itself."""

    __slots__ = ()

    def __class_getitem__(cls, parameters: object) -> type:
        return cls
