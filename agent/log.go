package agent

import (
	"io"
	"log/slog"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/plexus-cni/plexus/conf"
)

// openLog makes the log that a configuration asks for: standard error unless
// logToStderr is false, and logFile, rotated by logOptions as Multus does. A file
// has one writer for all requests: each would keep a goroutine for ever, and
// rotate the file under the others.
func (n *Node) openLog(c *conf.Conf, stderr io.Writer) (log *slog.Logger, done func()) {
	level := map[conf.LogLevel]slog.Level{
		conf.LogDebug: slog.LevelDebug, conf.LogVerbose: slog.LevelInfo, conf.LogError: slog.LevelWarn, conf.LogPanic: slog.LevelError,
	}[c.LogLevel]
	var to []io.Writer
	done = func() {}
	if c.LogToStderr == nil || *c.LogToStderr {
		to = append(to, stderr)
	}
	if c.LogFile != "" {
		file := n.logFile(c)
		to = append(to, file)
		done = func() { _ = file.Close() } // the next line opens it again
	}
	return slog.New(slog.NewTextHandler(io.MultiWriter(to...), &slog.HandlerOptions{Level: level})), done
}

func (n *Node) logFile(c *conf.Conf) *lumberjack.Logger {
	key := logKey{c.LogFile, c.LogOptions}
	n.logsMu.Lock()
	defer n.logsMu.Unlock()
	if n.logs == nil {
		n.logs = map[logKey]*lumberjack.Logger{}
	}
	if n.logs[key] == nil {
		n.logs[key] = &lumberjack.Logger{
			Filename: c.LogFile, MaxAge: c.LogOptions.MaxAge, MaxSize: c.LogOptions.MaxSize,
			MaxBackups: c.LogOptions.MaxBackups, Compress: c.LogOptions.Compress,
		}
	}
	return n.logs[key]
}

type logKey struct {
	file    string
	options conf.LogOptions
}
