"""What both processes hold open, made once from settings and passed down."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from app.db.session import make_sessions
from app.dispatch import Broker
from app.settings import HTTP_THREADS, Settings
from app.storage.store import Store


@dataclass(frozen=True)
class Resources:
    """Database sessions, the blob store, the broker, and where base models lie."""

    sessions: sessionmaker[Session]
    store: Store
    broker: Broker
    models: Path

    def close(self) -> None:
        """Give back connections."""
        self.sessions.kw["bind"].dispose()
        self.broker.close()


def open_resources(settings: Settings, *, pool_size: int = HTTP_THREADS) -> Resources:
    """Open everything lazily: no connection is made before it is needed."""
    return Resources(
        sessions=make_sessions(settings.database.url.get_secret_value(), pool_size=pool_size),
        store=Store(settings.storage.root),
        broker=Broker(settings.broker.url.get_secret_value(), key_prefix=settings.broker.key_prefix),
        models=settings.storage.models,
    )
