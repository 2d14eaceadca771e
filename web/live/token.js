// The token: where it is found, and what it says of whoever has it.

/** The token in the address, which is taken out of it: addresses are shown, shared and remembered. */
export function tokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) history.replaceState(null, "", location.pathname + location.search);
  return token;
}

/** What was pasted: a token, or a link that carries one. */
export function tokenIn(text) {
  return /(?:^|[#&])token=([^&\s]+)/.exec(text)?.[1] ?? text.trim();
}

/** What a token says. Nobody has proven it: the hub decides by the token, we only read it. */
export function claims(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))) ?? {};
  } catch {
    return {}; // No token at all: the hub will say so.
  }
}
