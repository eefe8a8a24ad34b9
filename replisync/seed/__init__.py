"""The first copy: from the changelog, a serverdir on this machine, or an export.

Knows how a target begins, and when it is handed over. Must not know the commands that come after.
"""

from replisync.seed.export.tools import ToolOptions
from replisync.seed.forecast.forecast import forecast, forecast_rest
from replisync.seed.forecast.survey import Forecast
from replisync.seed.target import Cloned
from replisync.seed.ways import Seed, Seeding, Sources, clone

__all__ = [
    "Cloned",
    "Forecast",
    "Seed",
    "Seeding",
    "Sources",
    "ToolOptions",
    "clone",
    "forecast",
    "forecast_rest",
]
