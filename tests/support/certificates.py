"""Certificates for tests, good ones and bad ones of every kind, and lists of revoked ones."""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

Key = ec.EllipticCurvePrivateKey
CLIENT, SERVER = oid.ExtendedKeyUsageOID.CLIENT_AUTH, oid.ExtendedKeyUsageOID.SERVER_AUTH
_DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    """The time, as certificates count it."""
    return datetime.datetime.now(datetime.UTC)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, common)])


class Authority:
    """Signs certificates, and keeps everything in files of a directory.

    Args:
        directory: an existing one; files are called after what they are for.
        name: of the authority; two with the same name are still two.
    """

    def __init__(self, directory: Path, name: str = "tests") -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.path = directory / "authority.pem"
        basic = x509.BasicConstraints(ca=True, path_length=None)
        made = self._builder(self._name, self._key, now() - _DAY, now() + _DAY).add_extension(basic, critical=True)
        self._certificate = made.sign(self._key, hashes.SHA256())
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        common: str,
        *,
        starts: datetime.timedelta = -_DAY,
        ends: datetime.timedelta = _DAY,
        purpose: x509.ObjectIdentifier = CLIENT,
        own: bool = False,
    ) -> tuple[Path, int]:
        """Certificate and key, in one file; and the serial number.

        Args:
            common: common name, and name of a host.
            starts, ends: from now.
            purpose: what it may be used for.
            own: signed with its own key in place of the authority's.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(_name(common), key, now() + starts, now() + ends)
        made = made.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(common)]), critical=False)
        certificate = made.sign(key if own else self._key, hashes.SHA256())
        path = self.directory / f"{certificate.serial_number:x}.pem"
        form = serialization.PrivateFormat.PKCS8
        secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
        return path, certificate.serial_number

    def revoke(self, serial: int) -> Path:
        """A list of revoked certificates with this one in it."""
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now() - _DAY).build()
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        made = made.last_update(now() - _DAY).next_update(now() + _DAY).add_revoked_certificate(one)
        path = self.directory / "revoked.pem"
        signed = made.sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return path

    def client(self, certificate: Path | None) -> ssl.SSLContext:
        """A client's context that trusts this authority, and shows a certificate if it has one."""
        context = ssl.create_default_context(cafile=str(self.path))
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context

    def _builder(
        self, subject: x509.Name, key: Key, starts: datetime.datetime, ends: datetime.datetime
    ) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        return made.serial_number(x509.random_serial_number()).not_valid_before(starts).not_valid_after(ends)
