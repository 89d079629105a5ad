"""stub"""


class GuardedChain: ...


def with_guard(): ...
