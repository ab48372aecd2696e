package admin

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// guard lets in who shows the token: as "Authorization: Bearer TOKEN", or with the cookie that the
// page's form gives for it. Without a token it lets in everybody.
type guard struct{ token string }

// The cookie is EXPIRES.SIGNATURE: it holds nothing that the token could be made from, no state is
// kept for it, and another token makes it worthless.
const (
	cookieName = "sluice_admin"
	cookieLife = 12 * time.Hour
)

// allows reports whether r shows the token.
func (g guard) allows(r *http.Request, now time.Time) bool {
	if g.token == "" {
		return true
	}
	scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") && g.is(strings.TrimSpace(shown)) {
		return true
	}
	cookie, err := r.Cookie(cookieName)
	return err == nil && g.allowsCookie(cookie.Value, now)
}

// is compares in a time that does not depend on either: hashing hides the lengths.
func (g guard) is(shown string) bool {
	a, b := sha256.Sum256([]byte(shown)), sha256.Sum256([]byte(g.token))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (g guard) allowsCookie(value string, now time.Time) bool {
	text, signature, found := strings.Cut(value, ".")
	expires, err := strconv.ParseInt(text, 10, 64)
	if !found || err != nil || now.Unix() >= expires {
		return false
	}
	return hmac.Equal([]byte(signature), []byte(g.sign(expires)))
}

func (g guard) sign(expires int64) string {
	mac := hmac.New(sha256.New, []byte(g.token))
	mac.Write([]byte("sluice admin cookie until " + strconv.FormatInt(expires, 10)))
	return hex.EncodeToString(mac.Sum(nil))
}

// cookie lets a browser in until it expires.
func (g guard) cookie(r *http.Request, now time.Time) *http.Cookie {
	expires := now.Add(cookieLife).Unix()
	return &http.Cookie{
		Name: cookieName, Value: strconv.FormatInt(expires, 10) + "." + g.sign(expires),
		Path: "/", MaxAge: int(cookieLife.Seconds()), HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	}
}

// signIn is the form behind the page: who sends the token gets the cookie. The token never stands
// in a URL, which browsers keep and proxies log.
func (a *Admin) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	if a.guard.token == "" || !a.guard.is(r.PostFormValue("token")) {
		a.deny(w, r)
		return
	}
	http.SetCookie(w, a.guard.cookie(r, time.Now()))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// deny answers a request without the token: browsers get the form.
func (a *Admin) deny(w http.ResponseWriter, r *http.Request) {
	denied.Inc()
	a.cfg.Logger.Warn("admin request denied", "client", r.RemoteAddr)
	h := w.Header()
	h.Set("WWW-Authenticate", `Bearer realm="sluice admin"`)
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.Error(w, "this address wants its token: Authorization: Bearer TOKEN", http.StatusUnauthorized)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy",
		"default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusUnauthorized)
	_ = signInTemplate.Execute(w, r.Method == http.MethodPost)
}

var signInTemplate = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sluice</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"></head>
<body><h1>Sluice</h1>
{{if .}}<p>That is not the token.</p>{{end}}
<form method="post" action="/sign-in"><label>Admin token
<input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Sign in</button></form></body></html>
`))
