package service

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/identity"
)

// look is how often files that others replace are looked at.
const look = 2 * time.Second

// openDenied reads the deny list that a configuration names. A service that
// was told of a list does not start without a good one.
func openDenied(c *config.Service, log *slog.Logger) (*identity.Denied, error) {
	if c.DenyList == "" {
		log.Warn("deny_list is not set: a certificate that was stolen is accepted until it expires")
		return nil, nil
	}
	return identity.OpenDenied(c.DenyList, filepath.Join(c.Data, "deny.seen"), c.Authority)
}

// watch takes up a new deny list or a renewed certificate without a restart,
// and tells how often lines were left out of the log.
func (b *base) watch() {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case now := <-tick.C:
			b.reload(now)
		}
	}
}

func (b *base) reload(now time.Time) {
	switch changed, err := b.credentials.Renew(now); {
	case err != nil:
		b.log.Error("renewing the certificate", "error", err.Error())
	case changed:
		b.log.Info("certificate renewed", "until", b.credentials.Ends().Format(time.RFC3339))
	}
	if b.denied != nil {
		switch changed, err := b.denied.Reload(); {
		case err != nil:
			b.log.Error("reading the deny list", "error", err.Error())
		case changed:
			list := b.denied.List()
			b.log.Info("deny list in force", "number", list.Number, "names", len(list.Names), "serials", len(list.Serials))
			b.server.Drop(b.denied.Check)
		}
	}
	if q, ok := b.log.Handler().(*quiet); ok {
		q.flush(now)
	}
}
