"""What lies in the store and no ref of this clone names: `verify --all` tells of it, and it is no failure."""

import json
import threading
from collections.abc import Iterator, Set
from typing import Any, Final

from lfs_agent.cellar import Cellar
from lfs_agent.collector import all_below
from lfs_agent.commands.screen import OBJECT, Screen
from lfs_agent.commands.wording import plain, spell_count, spell_size
from lfs_agent.errors import AgentError
from lfs_agent.layout import below, oid_at
from lfs_agent.pointer import Oid
from lfs_agent.store import Stored
from lfs_agent.verify import Depth

_SHOWN: Final = 20


def tell(screen: Screen, cellar: Cellar, named: Set[Oid], stop: threading.Event, depth: Depth | None) -> str:
    """Shows the objects that are not `named`, each as JSON where a `depth` is given; what they come to, in words."""
    stock = cellar.stock(stop=stop, connections=1)
    number, size = 0, 0
    try:
        for oid, stored in _unnamed(cellar, all_below(stock, below(cellar.prefix)), named):
            number, size = number + 1, size + stored.size
            if depth:
                screen.line(json.dumps(to_json(oid, stored, stock.address(stored.key), depth)))
            elif number <= _SHOWN:
                cells = "unreferenced", oid[:12], spell_size(stored.size)
                screen.row(OBJECT[:3], *cells, note=stock.address(stored.key))
            screen.progress(number, 0, f"{number:,} unreferenced objects")
    except AgentError as error:
        return f"unreferenced: the store was not listed: {plain(error)}"
    if not number:
        return "unreferenced: nothing"
    more = f", of which {_SHOWN} are shown (--json has all)" if number > _SHOWN and not depth else ""
    return (
        f"unreferenced: {spell_count(number, 'object')}, {spell_size(size)}{more}: no ref of this clone names them, "
        "another repository that shares the store may; see lfs-agent gc"
    )


def _unnamed(cellar: Cellar, all_stored: Iterator[Stored], named: Set[Oid]) -> Iterator[tuple[Oid, Stored]]:
    for stored in all_stored:
        oid = oid_at(stored.key, cellar.key)
        if oid and oid not in named:
            yield oid, stored


def to_json(oid: Oid, stored: Stored, address: str, depth: Depth) -> dict[str, Any]:
    """Such an object as `--json` prints it."""
    return {
        "status": "unreferenced",
        "oid": oid,
        "size": stored.size,
        "paths": [],
        "key": stored.key,
        "address": address,
        "proof": "",
        "proven": False,
        "as_of": None,
        "depth": depth,
        "reason": "",
    }
