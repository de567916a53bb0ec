"""The exceptions that proxyless raises on purpose."""


class ProxylessError(Exception):
    """Something the user can act on. Its text names what is wrong, where, and the remedy."""


class ConfigurationError(ProxylessError):
    """A setting, file or resource that proxyless was given cannot be used as it is."""


class NotReadyError(ProxylessError):
    """The mesh has not received what it needs (identity, configuration) within the time allowed."""


class NotInTimeError(NotReadyError):
    """It may still come: who waited had no more time."""


class IdentityError(ProxylessError):
    """A certificate, token or peer identity was refused."""
