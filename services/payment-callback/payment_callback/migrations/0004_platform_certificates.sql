-- WeChat Pay's platform certificates as they were last downloaded: every replica learns them here, and a start needs no
-- network. They are no secrets. Only what the channel has signed gets in.
create table platform_certificate (
    serial text primary key,  -- hexadecimal, upper case, without leading zeros
    pem text not null,
    first_seen_at timestamptz not null default now(),
    confirmed_at timestamptz not null default now()  -- of the last download that listed it
);

grant select, insert, update (confirmed_at) on platform_certificate to payment_callback_app;
