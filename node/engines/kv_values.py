"""Values of the KV engines as JSON text: what is written comes back digit by digit."""

from decimal import Decimal

import msgspec

encode = msgspec.json.Encoder(decimal_format="number").encode
decode = msgspec.json.Decoder(float_hook=Decimal).decode
