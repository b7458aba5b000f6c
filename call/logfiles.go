package call

import (
	"io"
	"log/slog"
	"sync"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/plexus-cni/plexus/conf"
)

// LogFiles are the log files that configurations name. A file has one writer for all
// requests: a writer for each would keep a goroutine for ever, and rotate the file while
// others write to it.
type LogFiles struct{ writers sync.Map } // *lumberjack.Logger by logKey

type logKey struct {
	file    string
	options conf.LogOptions
}

// open makes the log that a configuration names: standard error unless logToStderr is
// false, and logFile, rotated by logOptions as Multus does. done closes the file.
func (f *LogFiles) open(c *conf.Conf, stderr io.Writer) (log *slog.Logger, done func()) {
	level := map[conf.LogLevel]slog.Level{
		conf.LogDebug: slog.LevelDebug, conf.LogVerbose: slog.LevelInfo, conf.LogInfo: slog.LevelInfo,
		conf.LogWarning: slog.LevelWarn, conf.LogError: slog.LevelWarn, conf.LogPanic: slog.LevelError,
	}[c.LogLevel]
	var to []io.Writer
	done = func() {}
	if c.LogToStderr == nil || *c.LogToStderr {
		to = append(to, stderr)
	}
	if c.LogFile != "" {
		writer, _ := f.writers.LoadOrStore(logKey{c.LogFile, c.LogOptions}, &lumberjack.Logger{
			Filename: c.LogFile, MaxAge: c.LogOptions.MaxAge, MaxSize: c.LogOptions.MaxSize,
			MaxBackups: c.LogOptions.MaxBackups, Compress: c.LogOptions.Compress,
		})
		file := writer.(*lumberjack.Logger)
		to = append(to, file)
		done = func() { _ = file.Close() } // the next line opens it again
	}
	return slog.New(slog.NewTextHandler(io.MultiWriter(to...), &slog.HandlerOptions{Level: level})), done
}
