"""What the pages say, in Chinese and English. Pure."""

from enum import StrEnum

from ..attempt import Verdict
from ..channels import Reason


class Language(StrEnum):
    ZH = "zh"
    EN = "en"


# key -> (Chinese, English)
_WORDS = {
    "title": ("支付回调日志", "Payment callback log"),
    "since": ("从", "From"),
    "until": ("到", "Until"),
    "order_no": ("订单号", "Order number"),
    "transaction_id": ("交易单号", "Transaction"),
    "result": ("结果", "Result"),
    "channel": ("渠道", "Channel"),
    "any": ("全部", "any"),
    "search": ("查询", "Search"),
    "received_at": ("收到时间", "Received"),
    "why": ("原因", "Why"),
    "answered": ("应答", "Answered"),
    "source": ("来源地址", "From address"),
    "newer": ("最新一页", "Newest"),
    "older": ("更早", "Older"),
    "none": ("没有符合条件的回调。", "No callback fits."),
    "kept": ("记录保留约 {hours} 小时；时间为 UTC。", "Kept for about {hours} hours. Times are UTC."),
    "back": ("返回列表", "Back to the list"),
    "headers": ("请求头", "Headers"),
    "content": ("解密后的内容（已脱敏）", "Content, decrypted and masked"),
    "body": ("请求体（密文已省略）", "Body, without the ciphertext"),
    "events": ("产生的事件", "What it became"),
    "trace": ("追踪号", "Trace"),
    "gone": ("该记录不存在或已过期清除。", "There is no such record, or it has been purged."),
    "unread": ("请求体过大，未读取。", "Too large: it was never read."),
    "opaque": ("请求体不是本渠道的通知，只显示长度：{bytes} 字节。", "Not a notice of this channel; {bytes} bytes."),
    "language": ("English", "中文"),
}

_VERDICTS = {
    Verdict.ACCEPTED: ("已接收", "accepted"),
    Verdict.DUPLICATE: ("重复", "duplicate"),
    Verdict.NOTED: ("仅记录", "noted"),
    Verdict.REFUSED: ("已拒绝", "refused"),
}

_REASONS = {
    Reason.METHOD: ("不是 POST 请求", "The request was no POST."),
    Reason.MEDIA_TYPE: ("内容类型不对", "The content type is not the channel's."),
    Reason.TOO_LARGE: ("请求体超过 64 KB", "The body is larger than 64 KB."),
    Reason.HEADER_MISSING: (
        "缺少签名请求头，可能被代理删除",
        "A signature header is missing; did a proxy drop it?",
    ),
    Reason.SIGNATURE_TYPE: ("签名算法不支持", "The signature is of another kind."),
    Reason.DOCTOR: ("自检探测（doctor），拒绝即为正确", "The doctor's own probe: refusing it is right."),
    Reason.PROBE: ("渠道的签名探测，拒绝即为正确", "The channel's signature probe: refusing it is right."),
    Reason.CLOCK: ("时间戳与本机相差 5 分钟以上", "Its clock and ours differ by 5 minutes or more."),
    Reason.UNKNOWN_SERIAL: ("证书或公钥序列号未配置", "Signed with a key that is not configured here."),
    Reason.CERTIFICATE_EXPIRED: ("平台证书已过期", "The platform certificate has expired."),
    Reason.CERTIFICATE_TOO_EARLY: ("平台证书尚未生效", "The platform certificate is not valid yet."),
    Reason.BAD_SIGNATURE: (
        "签名不正确：被改动或非渠道所发",
        "Changed on the way, or not the channel's.",
    ),
    Reason.MALFORMED: ("通知格式不正确", "The notice is malformed."),
    Reason.UNDECRYPTABLE: (
        "签名正确但无法解密：检查 APIv3 密钥",
        "Authentic, not decryptable: check the APIv3 key.",
    ),
    Reason.WRONG_MERCHANT: ("商户号或应用不是本商户", "Authentic, but for another merchant or app."),
    Reason.NOT_UNDERSTOOD: (
        "签名正确，但内容暂不支持，渠道会重发",
        "Authentic, not understood; the channel repeats it.",
    ),
}

_SIGNATURES = {
    "valid": ("签名有效", "Signature valid"),
    "invalid": ("签名无效", "Signature invalid"),
    "unchecked": ("未验签", "Signature not looked at"),
}
_UNCHECKED = frozenset({Reason.METHOD, Reason.MEDIA_TYPE, Reason.TOO_LARGE, Reason.HEADER_MISSING})
_AUTHENTIC = frozenset({Reason.MALFORMED, Reason.UNDECRYPTABLE, Reason.WRONG_MERCHANT, Reason.NOT_UNDERSTOOD})


def word(language: Language, key: str, **values: object) -> str:
    return _of(language, _WORDS[key]).format(**values)


def verdict(language: Language, value: str) -> str:
    return _of(language, _VERDICTS[Verdict(value)])


def reason(language: Language, value: str | None) -> str:
    """The refusal in plain words; a remark on what was taken stays as it was noted."""
    if not value:
        return ""
    try:
        return _of(language, _REASONS[Reason(value)])
    except ValueError:
        return value


def signature(language: Language, verdict_said: str, reason_said: str | None) -> str:
    """Whether the signature held, told by why the callback was refused."""
    if verdict_said != Verdict.REFUSED or reason_said in _AUTHENTIC:
        return _of(language, _SIGNATURES["valid"])
    return _of(language, _SIGNATURES["unchecked" if reason_said in _UNCHECKED else "invalid"])


def _of(language: Language, both: tuple[str, str]) -> str:
    return both[0] if language is Language.ZH else both[1]
