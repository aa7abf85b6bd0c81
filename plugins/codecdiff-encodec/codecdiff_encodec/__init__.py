"""EnCodec for codecdiff."""

from codecdiff_encodec.codec import EnCodec

__all__ = ["EnCodec"]
