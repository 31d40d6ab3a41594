package app

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/valyala/fasthttp"
	gomail "github.com/wneessen/go-mail"

	"supervisor/pkg/tasks"
)

// Mail over SMTP, as a job. Who may have one sent to whom is checked when it is asked for: the operator to anybody, everybody else only to
// the domains of MAIL_ALLOW, by default nobody. So this is no open relay.

const (
	mailTask      = "mail"
	maxRecipients = 20
	maxSubject    = 300 // characters
	maxAddress    = 320 // bytes, with a name
	smtpTimeout   = 30 * time.Second
	// smtpAway is how long a mail waits for a server that cannot be reached, or does not let us in: no attempt of the mail's own.
	smtpAway = 30 * time.Second
	// smtpLastWord is how long a mail that is being sent may go on when its job is told to end.
	smtpLastWord = 5 * time.Second
)

// A server that greylists wants to be asked again after 5 to 30 minutes: 12 attempts spread over hours.
var mailOptions = []tasks.Option{tasks.Timeout(2 * time.Minute), tasks.MaxAttempts(12)}

var mailSchema = object(map[string]schema{
	"to":       list(text(3, maxAddress, "As in ada@example.org, or Ada Lovelace <ada@example.org>."), 1, maxRecipients),
	"subject":  text(1, maxSubject, "One line."),
	"text":     {"type": "string", "description": "The mail as plain text."},
	"html":     {"type": "string", "description": "The same as HTML."},
	"reply_to": text(3, maxAddress, "Where answers go, instead of MAIL_FROM."),
}, "to", "subject", "text")

// Mail is the server that takes our mail, SMTP_URL, and what it is given.
type Mail struct {
	host     string
	port     int
	user     *url.Userinfo // nil: no AUTH
	implicit bool          // TLS from the first byte
	policy   gomail.TLSPolicy
	from     *netmail.Address // MAIL_FROM
	domain   string           // of from: of message ids
	allow    []string         // MAIL_ALLOW, in lower case

	tls *tls.Config // nil: the system's roots; tests have others
}

// parseMail reads SMTP_URL, MAIL_FROM and MAIL_ALLOW; nil without the first. Errors do not repeat the URL, which may hold a password.
func parseMail(getenv func(string) string) (*Mail, error) {
	value := getenv("SMTP_URL")
	if value == "" {
		return nil, nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" || (u.Scheme != "smtp" && u.Scheme != "smtps") || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("SMTP_URL is not the URL of a mail server: want smtp://user:password@host:587 or smtps://…; in a password write % / ? # : @ as %25 %2F %3F %23 %3A %40")
	}
	m := &Mail{host: u.Hostname(), port: 587, user: u.User, policy: gomail.TLSMandatory, implicit: u.Scheme == "smtps"}
	if m.implicit {
		m.port = 465
	}
	if u.Port() != "" {
		if m.port, err = strconv.Atoi(u.Port()); err != nil || m.port < 1 || m.port > 65535 {
			return nil, errors.New("SMTP_URL: its port is not a number from 1 to 65535")
		}
	}
	for name, values := range u.Query() {
		switch value := values[0]; {
		case name == "starttls" && !m.implicit && value == "required":
		case name == "starttls" && !m.implicit && value == "off":
			m.policy = gomail.NoTLS
		default:
			return nil, fmt.Errorf("SMTP_URL: %s=%q means nothing here: want starttls=required (what smtp:// does anyway) or starttls=off", name, value)
		}
	}
	if m.user != nil && m.policy == gomail.NoTLS {
		return nil, errors.New("SMTP_URL: starttls=off would send the password in the clear: leave out one of them")
	}
	if m.from, err = netmail.ParseAddress(getenv("MAIL_FROM")); err != nil {
		return nil, fmt.Errorf("MAIL_FROM=%q: want the sender's address, as in Photos <photos@example.org>", getenv("MAIL_FROM"))
	}
	m.domain = domainOf(m.from)
	for _, domain := range words(getenv("MAIL_ALLOW")) {
		m.allow = append(m.allow, strings.ToLower(strings.TrimPrefix(domain, "@")))
	}
	return m, nil
}

// words splits a list at commas and spaces.
func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

func domainOf(address *netmail.Address) string {
	return strings.ToLower(address.Address[strings.LastIndexByte(address.Address, '@')+1:])
}

type mailArgs struct {
	To      []string `json:"to"`
	Subject string   `json:"subject"`
	Text    string   `json:"text"`
	HTML    string   `json:"html,omitempty"`
	ReplyTo string   `json:"reply_to,omitempty"`
}

func (args mailArgs) check(t *Tasks, byAdmin bool) error {
	if t.mailer == nil {
		return newProblem(fasthttp.StatusServiceUnavailable, "mail_off", "no mail is sent here: set SMTP_URL, as in smtp://user:password@host:587, and MAIL_FROM")
	}
	if len(args.To) < 1 || len(args.To) > maxRecipients {
		return badField("args.to", "want 1 to %d addresses, got %d", maxRecipients, len(args.To))
	}
	for i, written := range args.To {
		field := fmt.Sprintf("args.to[%d]", i)
		address, err := addressOf(field, written)
		if err != nil {
			return err
		}
		if !byAdmin && !slices.Contains(t.mailer.allow, domainOf(address)) {
			p := newProblem(fasthttp.StatusForbidden, "recipient_not_allowed",
				"%s: only the operator may have mail sent to %q: send the token of APP_ADMIN_TOKEN, or set MAIL_ALLOW to the domains that everybody may write to", field, domainOf(address))
			p.field = field
			return p
		}
	}
	if n := len([]rune(args.Subject)); n < 1 || n > maxSubject {
		return badField("args.subject", "want 1 to %d characters", maxSubject)
	}
	if !oneLine(args.Subject) {
		return badField("args.subject", "want one line without control characters")
	}
	if args.Text == "" {
		return badField("args.text", "want the text of the mail")
	}
	if args.ReplyTo != "" {
		if _, err := addressOf("args.reply_to", args.ReplyTo); err != nil {
			return err
		}
	}
	return nil
}

// oneLine reports whether a text can stand in a header. A line's end in it would begin a header of the client's own.
func oneLine(s string) bool { return !strings.ContainsFunc(s, unicode.IsControl) }

func addressOf(field, written string) (*netmail.Address, error) {
	address, err := netmail.ParseAddress(written)
	if err != nil || !oneLine(written) || len(written) > maxAddress || !oneLine(address.Name+address.Address) {
		return nil, badField(field, "%.100q is not one mail address: want ada@example.org, or Ada Lovelace <ada@example.org>", written)
	}
	return address, nil
}

// mail is the handler. A mail that was sent, whose end nobody heard of, is sent again with the same Message-ID: servers and readers know
// it by that.
func (t *Tasks) mail(ctx context.Context, args mailArgs) ([]byte, error) {
	// What a client may was asked when it came; the rest again, for jobs that came another way.
	if err := args.check(t, true); err != nil {
		return nil, &taskError{err.(*problem), tasks.ErrSkipRetry}
	}
	job := tasks.FromContext(ctx)
	id := job.ID + "@" + t.mailer.domain
	if err := t.mailer.send(ctx, args, id, job.Enqueued); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"message_id": "<" + id + ">"})
}

func (m *Mail) send(ctx context.Context, args mailArgs, id string, written time.Time) error {
	message := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	message.SetDateWithValue(written)
	message.SetMessageIDWithValue(id)
	message.Subject(args.Subject)
	err := errors.Join(message.From(m.from.String()), message.To(args.To...))
	if args.ReplyTo != "" {
		err = errors.Join(err, message.ReplyTo(args.ReplyTo))
	}
	if err != nil {
		return &taskError{newProblem(0, "bad_field", "the mail cannot be written as it is: %v", err), tasks.ErrSkipRetry}
	}
	message.SetBodyString(gomail.TypeTextPlain, args.Text)
	if args.HTML != "" {
		message.AddAlternativeString(gomail.TypeTextHTML, args.HTML)
	}
	// The library hears of ctx only while it dials.
	sent := make(chan error, 1)
	go func() { sent <- m.talk(ctx, message) }()
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-sent: // the server's answer is worth a moment: without it the mail may be sent twice
		return err
	case <-time.After(smtpLastWord):
		return context.Cause(ctx)
	}
}

// talk sends a message over a connection of its own.
func (m *Mail) talk(ctx context.Context, message *gomail.Msg) error {
	client, err := gomail.NewClient(m.host, m.options()...)
	if err != nil {
		return err
	}
	// Until it has let us in, nothing is said about the mail.
	if err := client.DialWithContext(ctx); err != nil {
		return &taskError{newProblem(0, "smtp_unavailable", "the mail server could not be reached or did not let us in, it will be tried again"),
			tasks.Again(fmt.Errorf("smtp: %w", err), smtpAway)}
	}
	defer client.Close()
	err = client.Send(message)
	if err == nil || message.IsDelivered() { // what went wrong after it was taken does not make it untaken
		return nil
	}
	return refused(err)
}

// refused says what to make of a server's answer: 5xx is for ever, 4xx for now, and with none at all nobody knows whether it was taken. A mail
// with one refused recipient goes to nobody; of several the last one's answer counts.
func refused(err error) error {
	var said *gomail.SendError
	if !errors.As(err, &said) || said.ErrorCode() == 0 {
		return &taskError{newProblem(0, "smtp_failed", "the connection to the mail server broke, it will be tried again"), err}
	}
	// The library's own words for where it happened, then the server's.
	words := strings.Join(strings.Fields(strings.ToValidUTF8(said.Error(), "?")), " ")
	words, _, _ = strings.Cut(words, ", affected message ID")
	if said.ErrorCode() >= 500 {
		return &taskError{newProblem(0, "mail_refused", "the mail server refused it: %.500s", words), fmt.Errorf("%w: %w", tasks.ErrSkipRetry, err)}
	}
	return &taskError{newProblem(0, "mail_deferred", "the mail server does not take it now: %.500s", words), err}
}

func (m *Mail) options() []gomail.Option {
	options := []gomail.Option{gomail.WithPort(m.port), gomail.WithTimeout(smtpTimeout), gomail.WithTLSPolicy(m.policy), gomail.WithoutNoop()}
	if m.implicit {
		options = append(options, gomail.WithSSL())
	}
	if m.tls != nil {
		options = append(options, gomail.WithTLSConfig(m.tls))
	}
	if m.user != nil {
		password, _ := m.user.Password()
		options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover), gomail.WithUsername(m.user.Username()), gomail.WithPassword(password))
	}
	return options
}
