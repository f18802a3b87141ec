"""What each tensor of a model is: which of its dimensions grow with width, found from shapes."""

from mupl.roles.description import describe as describe
from mupl.roles.infos import SPECIAL_ROWS as SPECIAL_ROWS
from mupl.roles.infos import Info as Info
from mupl.roles.infos import Insertion as Insertion
from mupl.roles.infos import InsertionKind as InsertionKind
from mupl.roles.infos import MultiplierInfo as MultiplierInfo
from mupl.roles.infos import MultiplierRole as MultiplierRole
from mupl.roles.infos import OwnValues as OwnValues
from mupl.roles.infos import ParamInfo as ParamInfo
from mupl.roles.infos import Role as Role
from mupl.roles.infos import multipliers as multipliers
from mupl.roles.shapes import Shapes as Shapes
from mupl.roles.sources import Base as Base
from mupl.roles.sources import Build as Build
from mupl.roles.sources import Width as Width
from mupl.roles.sources import shapes as shapes
