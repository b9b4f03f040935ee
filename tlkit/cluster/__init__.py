"""Workers of a Ray cluster, for work that falls into independent parts. The only room that imports Ray.

It knows nothing of images or networks: the rooms above hand it a function and the items to call it with.
"""

from tlkit.cluster.pool import Pool, check_on, current, pool, working_on
from tlkit.cluster.worker import threads

__all__ = ["Pool", "check_on", "current", "pool", "threads", "working_on"]
