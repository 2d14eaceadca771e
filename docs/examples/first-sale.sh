#!/usr/bin/env bash
# Opens a shop and sells one loaf of bread in it. TOKEN is an owner's, HUB is where the hub listens.
set -euo pipefail
hub=${HUB:-http://127.0.0.1:8080}

# write path body: each write has a key of its own; repeating it with the same key answers what it answered before.
write() {
    curl -sS --fail-with-body "$hub/v1/$1" -H "Authorization: Bearer $TOKEN" -H "Idempotency-Key: $RANDOM-$RANDOM-$RANDOM" \
        -H 'Content-Type: application/json' -d "$2"
    echo
}

# Ids may be chosen by whoever writes; left out, the hub makes them.
outlet=0192d3a4-0000-7000-8000-000000000001
register=0192d3a4-0000-7000-8000-000000000002
bread=0192d3a4-0000-7000-8000-000000000003

write merchant '{ "name": "Toko Roti", "currency": "IDR" }'
write outlets '{ "id": "'$outlet'", "code": "JKT", "name": "Jakarta", "time_zone": "Asia/Jakarta" }'
write outlets/$outlet/registers '{ "id": "'$register'", "code": "R1", "name": "Kasir 1" }'
write products '{ "name": "Roti tawar", "variants": [{ "id": "'$bread'", "sku": "ROTI", "price_minor": 15000 }] }'
write outlets/$outlet/stock/moves '{ "reason": "received", "lines": [{ "variant": "'$bread'", "quantity": "20" }] }'
write outlets/$outlet/sales '{ "register": "'$register'",
    "lines": [{ "variant": "'$bread'", "quantity": "1", "discount_minor": 0 }],
    "tenders": [{ "method": "cash", "amount_minor": 15000, "tendered_minor": 20000 }] }'

# What a screen was sent, from the beginning.
curl -sS --fail-with-body "$hub/v1/journal?after=0-00000000" -H "Authorization: Bearer $TOKEN"
