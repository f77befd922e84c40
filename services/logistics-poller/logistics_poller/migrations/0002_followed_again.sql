-- When a person had a parcel asked for anew; its label's age counts from then. Null: never.
alter table parcel add column followed_since timestamptz;
