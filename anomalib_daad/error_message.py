# SPDX-License-Identifier: Apache-2.0

"""What an error says in one line."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its kind.

    Args:
        error (BaseException): Error.

    Returns:
        str: One line.
    """
    return str(error).strip().split("\n")[0] or type(error).__name__
