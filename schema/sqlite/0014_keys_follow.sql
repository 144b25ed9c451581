-- Keys that are held until a run is closed go back with its tasks, when its closing event is inserted: an append that
-- closes a run is one statement then.
DROP TRIGGER events_follow_closing;

CREATE TRIGGER events_follow_closing
INSTEAD OF INSERT ON events_followed
WHEN NEW.closes = 1
BEGIN
    DELETE FROM tasks WHERE run_id = NEW.run_id;
    DELETE FROM keys WHERE run_id = NEW.run_id AND until_closed = 1;
END;
