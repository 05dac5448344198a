-- migrate:up

-- Of what others did to a payment, the currency in which the provider reports it; null for what was reported before this
-- migration. A refund in the payment's own currency is recorded as soon as enough is left of the payment
-- (adopt_contested); a refund without a currency, or in another one, waits for staff.
ALTER TABLE payment_contests ADD COLUMN currency TEXT;
