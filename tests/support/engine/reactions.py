"""What a status code makes the engine do, by the numbers of its own table; what none of them names moves the SPM."""

import enum


class Reaction(enum.Enum):
    """What happens next."""

    DONE = "done"
    LATER = "the host recovers; tried again later"
    SPM_LOST = "the SPM is forgotten, and one elected"
    MASTER = "the master is looked for on another host, or made anew"
    RECONSTRUCT = "the master is made anew at once"
    UNICODE = "the text is refused"
    NETWORK = "the host is not reachable"
    FAIL = "this command fails, and nothing else"
    FAILOVER = "the SPM is moved, and the verb called again there"


_NO_FAILOVER = frozenset(
    (
        *(39, 41, 44, 60, 202, 203, 204, 210, 211, 212, 213, 214, 216, 219, 220, 223, 224, 226, 227, 228, 229, 230),
        *(250, 255, 256, 257, 262, 265, 266, 267, 268, 303, 316, 317, 319, 323, 325, 327, 328, 329, 330, 353, 361),
        *(362, 363, 364, 365, 366, 367, 371, 372, 375, 376, 377, 378, 380, 381, 382, 383, 385, 386, 387, 388, 389),
        *(393, 394, 395, 396, 397, 398, 400, 401, 402, 403, 404, 405, 406, 410, 411, 413, 420, 430, 440, 441, 442),
        *(443, 474, 475, 476, 504, 505, 509, 515, 517, 518, 551, 552, 558, 559, 604, 607, 657, 658, 750, 752, 753),
        *(754, 755, 756, 802, 803, 851, 1000, 1001, 2000, 2005, 2008),
    )
)
_OTHERS = {
    0: Reaction.DONE,
    99: Reaction.LATER,
    654: Reaction.SPM_LOST,
    324: Reaction.RECONSTRUCT,
    **dict.fromkeys((304, 307, 310, 355), Reaction.MASTER),
    4900: Reaction.UNICODE,
    **dict.fromkeys((22, 5022), Reaction.NETWORK),
}


def of(code: int) -> Reaction:
    """What the engine does when a verb of the SPM answers with this code."""
    if code in _OTHERS:
        return _OTHERS[code]
    return Reaction.FAIL if code in _NO_FAILOVER else Reaction.FAILOVER
