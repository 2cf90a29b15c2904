/** The login page of the admin listener: one field, no script. */

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`)

export function loginPage(next: string, failed: boolean): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Fluxor Gateway</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/login.css">
<main>
  <h1>Fluxor Gateway</h1>
  <form method="post" action="/login">
    <label for="token">Admin token</label>
    <input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
    <input type="hidden" name="next" value="${escapeHtml(next)}">
    ${failed ? '<p role="alert">This is not the token.</p>' : ''}
    <button>Log in</button>
  </form>
</main>
</html>
`
}

export const LOGIN_CSS = `:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: light-dark(#f6f7f9, #0d1117); color: light-dark(#16202e, #e3e8ef) }
main { width: min(21rem, calc(100vw - 3rem)) }
h1 { font-size: 1.25rem; font-weight: 650; margin: 0 0 1.25rem }
form { display: grid; gap: .5rem; padding: 1.25rem; border-radius: .75rem; background: light-dark(#fff, #161c26); border: 1px solid light-dark(#e1e5eb, #262e3b) }
label { font-weight: 550 }
input, button { font: inherit; padding: .55rem .7rem; border-radius: .45rem; border: 1px solid light-dark(#c9d0da, #384252); background: light-dark(#fff, #0d1117); color: inherit }
button { margin-top: .5rem; border: 0; background: #2f6fed; color: #fff; font-weight: 600; cursor: pointer }
:focus-visible { outline: 2px solid #2f6fed; outline-offset: 2px }
p { margin: 0; color: light-dark(#b3261e, #ff8a80) }
`
