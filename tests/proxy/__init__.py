"""A fault proxy between a client and an S3 server: `with FaultProxy(upstream, Faults(...)) as proxy:`."""

from tests.proxy.dead import BlackHole as BlackHole
from tests.proxy.faults import ACCESS_DENIED as ACCESS_DENIED
from tests.proxy.faults import CONFLICT as CONFLICT
from tests.proxy.faults import ERROR_IN_200 as ERROR_IN_200
from tests.proxy.faults import EXPIRED_TOKEN as EXPIRED_TOKEN
from tests.proxy.faults import INTERNAL_ERROR as INTERNAL_ERROR
from tests.proxy.faults import NOT_IMPLEMENTED as NOT_IMPLEMENTED
from tests.proxy.faults import SLOW_DOWN as SLOW_DOWN
from tests.proxy.faults import Action as Action
from tests.proxy.faults import Answer as Answer
from tests.proxy.faults import Faults as Faults
from tests.proxy.faults import Flip as Flip
from tests.proxy.faults import Plan as Plan
from tests.proxy.faults import ReplaceHeaders as ReplaceHeaders
from tests.proxy.faults import Reset as Reset
from tests.proxy.faults import Rule as Rule
from tests.proxy.faults import Seen as Seen
from tests.proxy.faults import Stall as Stall
from tests.proxy.faults import StripHeaders as StripHeaders
from tests.proxy.faults import Throttle as Throttle
from tests.proxy.faults import Truncate as Truncate
from tests.proxy.faults import Whitespace as Whitespace
from tests.proxy.proxy import FaultProxy as FaultProxy
from tests.proxy.sign import Key as Key
