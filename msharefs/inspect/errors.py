"""What cannot be looked at, and why.

Refusals of the system stay OSErrors; these are the others. A sentence here names things as they
are called: whoever prints it on a terminal sees to it that a name does no harm there.
"""

from __future__ import annotations


class InspectError(Exception):
    """What was asked about is not there or not what it should be: one sentence, no full stop."""
