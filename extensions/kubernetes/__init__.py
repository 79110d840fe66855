"""Kubernetes: a launcher that runs trainers as Jobs of a cluster."""

from extensions.kubernetes.settings import KubernetesSettings
from infrastructure.extensions import Extension, LauncherOf

EXTENSION = Extension(
    package=__name__,
    summary="A launcher that runs trainers as Jobs of a Kubernetes cluster.",
    settings=KubernetesSettings,
    launchers={
        "kubernetes": LauncherOf(open="launcher:KubernetesLauncher", checks="checks:checks")
    },
)
