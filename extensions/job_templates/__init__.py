"""Job templates: named requests for similar jobs."""

from extensions.job_templates.tables import JOB_TEMPLATES
from infrastructure.extensions import Extension, JobForm, Panel
from infrastructure.rights import CHANGE

EXTENSION = Extension(
    package=__name__,
    summary="Named requests for similar jobs.",
    tables=(JOB_TEMPLATES,),
    rights={"gateway": {JOB_TEMPLATES.name: CHANGE}},
    api=("api:router",),
    pages=("pages:router",),
    panels={
        "jobs.actions": Panel("job_templates/link.html"),
        "wizard.actions": Panel("job_templates/wizard_actions.html"),
        "wizard.dialogs": Panel("job_templates/wizard_dialog.html"),
        "job.actions": Panel("job_templates/job_actions.html"),
        "job.dialogs": Panel("job_templates/job_dialog.html"),
    },
    job_forms={
        "template": JobForm(page="service:usable_request", command="cli:usable_request"),
    },
    commands={"templates": "cli:templates"},
)
