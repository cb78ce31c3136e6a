"""What is in a published file: tables of tensors by name, and the plain values beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Tables = dict[str, dict[str, Tensor]]

# In this order: averaged weights are those that a release is measured with.
AVERAGED = ("ema", "model_ema", "ema_model", "ema_state_dict", "params_ema")
PREFERRED = (*AVERAGED, "state_dict", "", "model", "module", "params")
_WRAPPERS = ("module.", "_orig_mod.")  # of data-parallel training and torch.compile


@dataclass(frozen=True)
class Content:
    """tables: {path in the file: {name: tensor}}; the path of a plain table is "".

    about: plain values beside the tables, by path; of a folder the config of each part.
    """

    tables: Tables
    about: dict[str, Any] = field(default_factory=dict)

    def by_preference(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """The tables, averaged weights first, names without what wrappers put before all."""
        known = [path for path in PREFERRED if path in self.tables]
        for path in [*known, *sorted(self.tables.keys() - set(PREFERRED))]:
            yield path, without_wrappers(self.tables[path])


def without_wrappers(table: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The table without a prefix that a wrapper of the network put before every name."""
    for prefix in _WRAPPERS:
        if table and all(name.startswith(prefix) for name in table):
            return without_wrappers({k.removeprefix(prefix): v for k, v in table.items()})
    return table


def content_of(value: Any) -> Content:
    """The tables and plain values in an object of mappings, lists, tensors and plain values.

    Mappings with other keys than texts (the states of an optimizer) are left out.
    """
    content = Content({})
    _walk(value, "", content)
    return content


def _walk(value: Any, path: str, content: Content, depth: int = 0) -> None:
    if depth > 8:
        return
    if isinstance(value, Mapping):
        named = {key: one for key, one in value.items() if isinstance(key, str)}
        if len(named) < len(value):
            return
        tensors = {key: one for key, one in named.items() if isinstance(one, Tensor)}
        if tensors:
            content.tables[path] = tensors
        for key, one in named.items():
            if key not in tensors:
                _walk(one, f"{path}/{key}" if path else key, content, depth + 1)
    elif value is None or isinstance(value, (bool, int, float)):
        content.about[path] = value
    elif isinstance(value, str):
        content.about[path] = value[:1000]
    elif isinstance(value, (list, tuple)) and len(value) <= 64 and all(map(_is_plain, value)):
        content.about[path] = list(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) < 1000)
