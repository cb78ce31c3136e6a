"""Finished runs: a record for each, read back as records or as frames of pandas.

from hierdiff.results import dataframe, wide
wide(dataframe("runs"))
"""

from hierdiff.results.folders import paths, readable, records
from hierdiff.results.frames import dataframe, wide
from hierdiff.results.record import Record
from hierdiff.results.seeds import over_seeds

__all__ = ["Record", "dataframe", "over_seeds", "paths", "readable", "records", "wide"]
