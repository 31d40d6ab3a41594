package supervisor

import (
	"fmt"
	"time"
)

// Verdict is how a reload or a self-upgrade ended, for the one who asked for it.
type Verdict struct {
	OK         bool          `json:"ok"`
	Text       string        `json:"text"`       // one line for people: what came of it, and why
	Generation int           `json:"generation"` // in force afterwards
	Took       time.Duration `json:"took"`       // nanoseconds
}

// answer tells everybody who asked, and forgets them: each gets one verdict.
func answer(asked *[]func(Verdict), v Verdict) {
	for _, tell := range *asked {
		tell(v)
	}
	*asked = nil
}

// refused is the verdict of what was not even begun.
func (s *Supervisor) refused(format string, args ...any) Verdict {
	return Verdict{Text: fmt.Sprintf(format, args...), Generation: s.generation}
}
