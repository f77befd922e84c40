"""What to tell a firewall so that the channel's notices pass. Pure.

Allow by path and method first: the channel's addresses change, and are a hint only. The service verifies every notice
itself, so letting this one path through opens nothing.
"""

# WeChat Pay's callback notes, 2026: payments; then refunds and profit sharing.
ADDRESSES = (
    "101.226.103.0/25", "140.207.54.0/25", "121.51.58.128/25", "183.3.234.0/25", "58.251.80.0/25",
    "121.51.30.128/25", "203.205.219.128/25", "81.71.199.64", "81.71.198.25", "81.71.199.59",
    "175.24.214.208", "175.24.211.24", "175.24.213.135", "109.244.180.23", "114.132.203.119", "43.139.43.69",
)  # fmt: skip

FIREWALLS = ("tencent", "aliyun", "cloudflare", "nginx", "modsecurity", "safeline")


def snippet(firewall: str, path: str) -> str:
    """Configuration or a way through the console, for one firewall of FIREWALLS."""
    match firewall:
        case "tencent":
            return (
                "Tencent Cloud WAF: 配置中心 → 黑白名单 → 精准白名单 → 添加规则\n"
                f"  匹配: 请求路径 等于 {path}，请求方法 等于 POST\n"
                "  放行模块: Web 安全防护、CC 防护、BOT 管理、AI 引擎"
            )
        case "aliyun":
            return (
                "Aliyun WAF 3.0: 防护配置 → Web 核心防护 → 白名单 → 新建模板/规则\n"
                f"  匹配条件: URI Path 等于 {path}，Http-Method 等于 POST\n"
                "  不检测模块: 全部（规则防护、CC 防护、Bot 管理、扫描防护）"
            )
        case "cloudflare":
            return (
                "Cloudflare: Security → WAF → Custom rules → Create rule, action Skip (all remaining custom rules,\n"
                "managed rules, rate limiting, Super Bot Fight Mode; also Browser Integrity Check), placed first:\n"
                f'  (http.request.uri.path eq "{path}" and http.request.method eq "POST")'
            )
        case "nginx":
            return _nginx(path)
        case "modsecurity":
            return (
                "# ModSecurity, before the rule set is included\n"
                f'SecRule REQUEST_URI "@streq {path}" \\\n'
                '    "id:1000101,phase:1,pass,nolog,chain"\n'
                '    SecRule REQUEST_METHOD "@streq POST" "ctl:ruleEngine=Off"'
            )
        case "safeline":
            return (
                "SafeLine (雷池): 防护应用 → 黑白名单 → 添加白名单\n"
                f"  匹配: 路径 等于 {path}，方法 等于 POST；并在人机验证/动态防护中排除该路径"
            )
        case other:
            raise ValueError(other)


def _nginx(path: str) -> str:
    allowed = "\n".join(f"    # allow {address};" for address in ADDRESSES)
    return (
        f"location = {path} {{\n"
        "    limit_except POST { deny all; }\n"
        "    # The channel's addresses change: allow by path, or keep this list up to date.\n"
        f"{allowed}\n"
        "    # deny all;\n"
        "    client_max_body_size 64k;\n"
        "    proxy_pass http://payment-callback;  # no slash at the end, no rewrite\n"
        "    proxy_set_header Host $host;\n"
        "    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
        "    proxy_read_timeout 5s;\n"
        "}"
    )
