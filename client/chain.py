"""``chain``: show what an image's chain really is. A look only; the server changes nothing for it."""

import os
import sys
from collections.abc import Sequence

from client import arguments, errors, output
from client.session import Session


def run(session: Session, words: Sequence[str]) -> output.Outcome:
    """``chain [--json] spUUID sdUUID imgUUID [leafVolUUID]``: the picture of the chain, or the reply as JSON."""
    options = [word for word in words if word.startswith("-")]
    ids = [arguments.text(word) for word in words if not word.startswith("-")]
    for option in options:
        if option != "--json":
            raise errors.BadArgument(f"{arguments.shown(option)} is no option of this command")
    arguments.check_count(ids, 3, 4)
    reply = session.call("getVolumeChain", ids)
    failure = output.failed(reply, "storage")
    if options:
        return _as_json(reply, failure)
    if failure is not None:
        return failure
    # Not at the top: only this command needs them.
    from client import picture, style

    pool, domain, image, *leaf = ids
    subject = picture.Subject(pool, domain, image, leaf[0] if leaf else "", session.invocation)
    return output.Outcome(picture.lines(reply, subject, style.detect(sys.stdout, os.environ)))


def _as_json(reply: output.Reply, failure: output.Outcome | None) -> output.Outcome:
    import json

    shown = reply if failure else {key: value for key, value in reply.items() if key != "status"}
    return output.Outcome(json.dumps(shown, indent=2, default=str).splitlines(), failure.code if failure else 0)
