"""One module per payment channel. All of them are pure: bytes and a time in, a notice or a refusal out."""

from .channel import Answer, Channel, Fact, Notice, Question, Reason, Refused, Shape, paid, refunded

__all__ = ["Answer", "Channel", "Fact", "Notice", "Question", "Reason", "Refused", "Shape", "paid", "refunded"]
