#!/usr/bin/env bash
# Sells a loaf of bread by QRIS in the shop of first-sale.sh, with the same TOKEN. HUB is where the hub listens, and
# SIMULATOR where the simulator of Midtrans does, which the hub was pointed at.
set -euo pipefail
hub=${HUB:-http://127.0.0.1:8080} simulator=${SIMULATOR:-http://127.0.0.1:7201}
outlet=0192d3a4-0000-7000-8000-000000000001
register=0192d3a4-0000-7000-8000-000000000002
bread=0192d3a4-0000-7000-8000-000000000003

look() { curl -sS --fail-with-body "$hub/v1/$1" -H "Authorization: Bearer $TOKEN"; }
# write path key body: the same key again answers what it answered before.
write() {
    curl -sS --fail-with-body "$hub/v1/$1" -H "Authorization: Bearer $TOKEN" -H "Idempotency-Key: $2" \
        -H 'Content-Type: application/json' -d "$3" && echo
}
simulate() { curl -sS --fail-with-body "$simulator/_sim/$1" -H 'Content-Type: application/json' -d "$2" && echo; }
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }
uuid() { cat /proc/sys/kernel/random/uuid; }

# The owner adds the account: by one key, and so once.
account=$(write provider-accounts account-of-toko-roti '{ "mode": "test", "label": "Toko Roti", "credentials": {
    "provider": "midtrans", "merchant_id": "G100200300", "server_key": "SB-Mid-server-TOKOROTI1234567890",
    "client_key": "SB-Mid-client-TOKOROTI1234" } }')
# Midtrans' dashboard has a field for where it posts, and the simulator, which knows no such account yet, is told so.
simulate accounts '{ "provider": "midtrans", "merchant_id": "G100200300", "server_key": "SB-Mid-server-TOKOROTI1234567890",
    "client_key": "SB-Mid-client-TOKOROTI1234", "webhook_urls": ["'"$hub$(field webhook_path <<<"$account")"'"] }'

# The till opens a sale, and asks for a payment of all that is due. It chooses the ids, and so knows them whatever is lost.
sale=$(uuid) payment=$(uuid)
write "outlets/$outlet/sales" "$sale" '{ "id": "'"$sale"'", "register": "'$register'", "open": true,
    "lines": [{ "variant": "'$bread'", "quantity": "1" }] }'
write "sales/$sale/payments" "$payment" '{ "id": "'"$payment"'", "method": "qris", "provider": "midtrans", "mode": "test" }'

# It draws the code, and the customer pays with an app.
look "payments/$payment/qr.svg" >payment.svg
simulate pay '{ "id": "'"$payment"'", "issuer": "DANA" }'

# A till listens; one that hears nothing asks.
while state=$(look "payments/$payment" | field state) && [ "$state" = pending ]; do sleep 5; done
echo "$state"
[ "$state" = paid ]
