"""Certificates that expire soon."""

from __future__ import annotations

from pathlib import Path

from domain.core.durations import spoken
from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import CertificateParameters, Parameters


def expiring(around: Surroundings, parameters: Parameters) -> list[Finding]:
    """Return a finding if a certificate in the file ends soon, or if the file is unreadable."""
    assert isinstance(parameters, CertificateParameters)
    from cryptography.x509 import load_pem_x509_certificates  # only for those who have such a rule

    labels = {"file": parameters.file}
    try:
        certificates = load_pem_x509_certificates(Path(parameters.file).read_bytes())
    except OSError as error:
        return [Finding(labels, f"Cannot read {parameters.file}: {error.strerror}.")]
    except ValueError:
        return [Finding(labels, f"{parameters.file} contains no certificate in PEM format.")]
    end = min(certificate.not_valid_after_utc for certificate in certificates)
    if end - around.now > parameters.within:
        return []
    left = (end - around.now).total_seconds()
    when = f"expires in {spoken(left)}" if left > 0 else f"expired {spoken(-left)} ago"
    return [Finding(labels, f"The certificate in {parameters.file} {when}. Renew it.")]
