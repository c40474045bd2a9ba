"""The one error that this program raises on purpose."""


class ClusterError(Exception):
    """A sentence that says what is wrong and, where there is one, the command that helps."""
