"""What tq deals in: `nouns` are messages, queues and their bounds; `requests` what may be asked of them.

Everything here is frozen data without behaviour, so that it can be queued, logged, replayed or sent to another
process. Times and durations are integers of milliseconds (times since the Unix epoch, UTC), but for the settings of a
queue, which are seconds, as their owner wrote them.
"""

from tq.model.nouns import *
from tq.model.requests import *
