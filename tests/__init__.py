"""Tests of hierdiff; `check` is the runtime shape checker that pytest switches on."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a YAML `6` passes for a float
