"""Which job is which, what it left when it ended, and by which code and data that was made."""

from mupl.identity.jobs import IDENTITY as IDENTITY
from mupl.identity.jobs import IGNORED_KEYS as IGNORED_KEYS
from mupl.identity.jobs import METRICS as METRICS
from mupl.identity.jobs import OUTCOMES as OUTCOMES
from mupl.identity.jobs import SETTINGS as SETTINGS
from mupl.identity.jobs import hydra_of as hydra_of
from mupl.identity.jobs import job_id as job_id
from mupl.identity.jobs import job_row as job_row
from mupl.identity.jobs import parsed_overrides as parsed_overrides
from mupl.identity.jobs import register_resolvers as register_resolvers
from mupl.identity.jobs import remember_id as remember_id
from mupl.identity.jobs import setting as setting
from mupl.identity.jobs import sweep_id as sweep_id
from mupl.identity.jobs import swept_keys as swept_keys
from mupl.identity.jobs import task_overrides as task_overrides
from mupl.identity.jobs import without_hydra as without_hydra
from mupl.identity.provenance import changes as changes
from mupl.identity.provenance import differences as differences
from mupl.identity.results import RERUN as RERUN
from mupl.identity.results import RESULT_FILE as RESULT_FILE
from mupl.identity.results import finished as finished
from mupl.identity.results import finished_jobs as finished_jobs
from mupl.identity.results import listed as listed
from mupl.identity.results import read_result as read_result
from mupl.identity.results import read_results as read_results
from mupl.identity.results import write_result as write_result
