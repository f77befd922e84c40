"""What can be wrong with a notify URL, in words. Pure."""

from enum import StrEnum


class Verdict(StrEnum):
    """What the doctor found; the first that applies, in this order of the way a notice takes."""

    HEALTHY = "healthy"
    BAD_URL = "bad_url"  # no notify URL at all, by its form
    NOT_HTTPS = "not_https"
    TRAILING_SLASH = "trailing_slash"
    DNS_FAILURE = "dns_failure"
    PRIVATE_ADDRESS = "private_address"
    UNREACHABLE = "unreachable"  # nobody listens
    TLS_FAILURE = "tls_failure"
    TIMEOUT = "timeout"
    CUT_OFF = "cut_off"  # the connection ends without an answer
    REDIRECT = "redirect"
    FOREIGN_SUCCESS = "foreign_success"  # somebody else says 2xx: the channel counts the notice as delivered
    BLOCK_PAGE = "block_page"
    FORBIDDEN = "forbidden"
    WRONG_PATH = "wrong_path"
    WRONG_KEY = "wrong_key"
    HEADERS_STRIPPED = "headers_stripped"
    BODY_CHANGED = "body_changed"
    CLOCK = "clock"
    UPSTREAM_DOWN = "upstream_down"
    FOREIGN_ANSWER = "foreign_answer"
    NOT_ARRIVED = "not_arrived"  # the channel's own self-test did not reach us
    NOT_ASKED = "not_asked"  # the channel did not take the request for its self-test


EXPLANATIONS = {
    Verdict.HEALTHY: "Our service received the probe whole: headers, body and path are as they were sent.",
    Verdict.BAD_URL: "The channel does not accept this notify URL.",
    Verdict.NOT_HTTPS: "The notify URL is not https: anybody on the way reads and changes notices.",
    Verdict.TRAILING_SLASH: "The notify URL ends with a slash; our service answers without it only.",
    Verdict.DNS_FAILURE: "The host's name does not resolve.",
    Verdict.PRIVATE_ADDRESS: "The host resolves to an address that the channel cannot reach.",
    Verdict.UNREACHABLE: "Nobody listens at the host's address and port.",
    Verdict.TLS_FAILURE: "The certificate or the handshake would be refused by the channel.",
    Verdict.TIMEOUT: "No answer within 5 seconds; the channel waits no longer and counts a failure.",
    Verdict.CUT_OFF: "The connection was ended without an answer.",
    Verdict.REDIRECT: "The answer is a redirect; the channel follows none.",
    Verdict.FOREIGN_SUCCESS: "Somebody in front of our service answers success in its place: the channel believes it "
    "and stops repeating, and the payment is never heard of.",
    Verdict.BLOCK_PAGE: "A firewall's block page answers in place of our service.",
    Verdict.FORBIDDEN: "Something in front of our service forbids the request.",
    Verdict.WRONG_PATH: "The host answers, but there is no notify URL at this path.",
    Verdict.WRONG_KEY: "It answers as our service does, but with other keys than the doctor was given.",
    Verdict.HEADERS_STRIPPED: "Our service was reached, but without the channel's headers: nothing can be verified.",
    Verdict.BODY_CHANGED: "Our service was reached, but with another body than was sent: no signature can hold.",
    Verdict.CLOCK: "Our service was reached, but its clock is wrong: it refuses every notice.",
    Verdict.UPSTREAM_DOWN: "A proxy answers that it cannot reach our service.",
    Verdict.FOREIGN_ANSWER: "Somebody else answers.",
    Verdict.NOT_ARRIVED: "The channel's own notice did not arrive, although the doctor's probe does.",
    Verdict.NOT_ASKED: "The channel refused to send its self-test.",
}

REMEDIES = {
    Verdict.BAD_URL: "Mend what is listed above and set the URL in the prepay call's notify_url.",
    Verdict.NOT_HTTPS: "Serve the URL over https with a publicly trusted certificate and use that in notify_url.",
    Verdict.TRAILING_SLASH: "Remove the slash from notify_url.",
    Verdict.DNS_FAILURE: "Check the host's name and its public DNS records (A or AAAA).",
    Verdict.PRIVATE_ADDRESS: "Use a name that public DNS resolves to the ingress's public address.",
    Verdict.UNREACHABLE: "Open port 443 in the firewall or security group, and check that the ingress runs.",
    Verdict.TLS_FAILURE: "Renew the certificate, or install it together with its intermediate certificates.",
    Verdict.TIMEOUT: "Look for a firewall that drops instead of refusing, or a backend that hangs.",
    Verdict.CUT_OFF: "Look for a firewall rule that closes connections; allow the notify URL's path.",
    Verdict.REDIRECT: "Configure the redirect's target as the notify URL, or take the redirect off this path.",
    Verdict.FOREIGN_SUCCESS: "Switch human checks and default pages off for this path (see the allow-list).",
    Verdict.BLOCK_PAGE: "Allow POST to this path in the firewall (see the allow-list).",
    Verdict.FORBIDDEN: "Allow POST to this path in the firewall, the proxy and the ingress (see the allow-list).",
    Verdict.WRONG_PATH: "Use /v1/order/callback/wechat or /v1/order/callback/alipay, and check the proxy's rewrites.",
    Verdict.WRONG_KEY: "Compare the service's ORDERLOOP_WECHAT_* settings with the merchant platform's, and check that "
    "the URL leads to this environment and not to another.",
    Verdict.HEADERS_STRIPPED: "Let the proxy pass all Wechatpay-* headers on.",
    Verdict.BODY_CHANGED: "Switch rewriting, compression and inspection that re-encodes off for this path.",
    Verdict.CLOCK: "Synchronise the clock (NTP) of the machine that runs payment-callback.",
    Verdict.UPSTREAM_DOWN: "Check that payment-callback runs, is ready, and is the proxy's upstream for this path.",
    Verdict.FOREIGN_ANSWER: "Find out who answers (see the headers) and let POST to this path through.",
    Verdict.NOT_ARRIVED: "Look for a rule about the sender's address, country or User-Agent (see the allow-list).",
    Verdict.NOT_ASKED: "Check the merchant's serial and key (ORDERLOOP_WECHAT_MERCHANT_*) and …_API_BASE_URL.",
}
