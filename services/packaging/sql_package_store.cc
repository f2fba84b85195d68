#include "services/packaging/sql_package_store.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd::packaging {
namespace {

using sql::Session;
using sql::Statement;

PackageRow ReadPackage(Statement* s) {
  PackageRow row;
  row.name = s->GetText();
  row.digest = s->GetText();
  row.manifest_json = s->GetText();
  row.bytes = static_cast<uint64_t>(s->GetInt());
  row.publish_time = absl::FromUnixMicros(s->GetInt());
  return row;
}

absl::Status NoTag(const std::string& name, const std::string& tag) {
  return absl::NotFoundError(absl::StrCat("no package ", name, ":", tag));
}

// Without a digest if there is none. `hold`: it points there until the transaction ends.
absl::StatusOr<TagRow> FindTag(Session& session, const std::string& name, const std::string& tag,
                               bool hold = false) {
  Statement s(session, absl::StrCat("SELECT digest, owner FROM tags WHERE name = ? AND tag = ?",
                                    hold ? session.For(sql::Lock::kWait) : std::string()));
  TagRow row{name, tag, ""};
  SA_ASSIGN_OR_RETURN(const bool found, s.Text(name).Text(tag).Step());
  if (!found) return row;
  row.digest = s.GetText();
  row.owner = s.GetText();
  return row;
}

absl::StatusOr<PackageRow> FindPackage(Session& session, const std::string& name,
                                       const std::string& digest) {
  Statement s(session,
              "SELECT name, digest, manifest, bytes, publish_time FROM packages "
              "WHERE name = ? AND digest = ?");
  SA_ASSIGN_OR_RETURN(const bool found, s.Text(name).Text(digest).Step());
  if (!found) return absl::NotFoundError(absl::StrCat("no package ", name, "@", digest));
  return ReadPackage(&s);
}

absl::StatusOr<std::vector<ProvenanceRow>> FindProvenance(Session& session, const std::string& name,
                                                          const std::string& subject) {
  Statement s(session,
              "SELECT digest, size FROM provenance WHERE name = ? AND subject = ? ORDER BY id");
  s.Text(name).Text(subject);
  std::vector<ProvenanceRow> rows;
  for (;;) {
    SA_ASSIGN_OR_RETURN(const bool more, s.Step());
    if (!more) return rows;
    ProvenanceRow row{name, subject, s.GetText(), 0};
    row.size = static_cast<uint64_t>(s.GetInt());
    rows.push_back(std::move(row));
  }
}

absl::StatusOr<std::vector<PackageRow>> ReadPackages(Statement* s) {
  std::vector<PackageRow> rows;
  for (;;) {
    SA_ASSIGN_OR_RETURN(const bool more, s->Step());
    if (!more) return rows;
    rows.push_back(ReadPackage(s));
  }
}

// Whether the tag may be moved, by whom and from where it is now.
absl::Status CheckMove(Session& session, const TagRow& tag, const std::string& expected,
                       const TagMover& mover) {
  SA_ASSIGN_OR_RETURN(const TagRow found, FindTag(session, tag.name, tag.tag, /*hold=*/true));
  if (!mover.any && !found.owner.empty() && found.owner != mover.name) {
    return absl::PermissionDeniedError(
        absl::StrCat("tag ", tag.name, ":", tag.tag, " belongs to ", found.owner, ": ",
                     mover.name.empty() ? "nobody else" : mover.name,
                     mover.name.empty() ? " may move it" : " may not move it"));
  }
  if (expected.empty() || found.digest == expected) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("tag ", tag.name, ":", tag.tag, ": expected ", expected,
                                         ", found ",
                                         found.digest.empty() ? "no such tag" : found.digest));
}

// The three that follow give false if nothing changed.
absl::StatusOr<bool> Insert(Session& session, const PackageRow& row) {
  Statement s(session,
              "INSERT INTO packages(name, digest, manifest, bytes, publish_time) "
              "VALUES(?, ?, ?, ?, ?) ON CONFLICT DO NOTHING");
  SA_RETURN_IF_ERROR(s.Text(row.name)
                         .Text(row.digest)
                         .Text(row.manifest_json)
                         .Int(static_cast<int64_t>(row.bytes))
                         .Int(absl::ToUnixMicros(row.publish_time))
                         .Run());
  return session.Changes() > 0;
}

absl::StatusOr<bool> Insert(Session& session, const ProvenanceRow& row) {
  Statement s(session,
              "INSERT INTO provenance(name, subject, digest, size) VALUES(?, ?, ?, ?) "
              "ON CONFLICT DO NOTHING");
  SA_RETURN_IF_ERROR(s.Text(row.name)
                         .Text(row.subject)
                         .Text(row.digest)
                         .Int(static_cast<int64_t>(row.size))
                         .Run());
  return session.Changes() > 0;
}

absl::StatusOr<bool> SetTag(Session& session, const TagRow& row, const TagMover& mover) {
  Statement s(session,
              "INSERT INTO tags(name, tag, digest) VALUES(?, ?, ?) ON CONFLICT(name, tag) "
              "DO UPDATE SET digest = excluded.digest WHERE tags.digest <> excluded.digest");
  SA_RETURN_IF_ERROR(s.Text(row.name).Text(row.tag).Text(row.digest).Run());
  const bool moved = session.Changes() > 0;
  if (mover.name.empty()) return moved;
  Statement own(session, absl::StrCat("UPDATE tags SET owner = ? WHERE name = ? AND tag = ?",
                                      mover.give ? "" : " AND owner = ''"));
  SA_RETURN_IF_ERROR(own.Text(mover.name).Text(row.name).Text(row.tag).Run());
  return moved;
}

}  // namespace

absl::StatusOr<bool> SqlPackageStore::Publish(const PackageRow& package, const std::string& tag,
                                              const std::vector<ProvenanceRow>& provenance,
                                              const std::string& expected, const TagMover& mover) {
  return sql::Write(db_.get(), [&](Session& session) -> absl::StatusOr<bool> {
    const TagRow row{package.name, tag, package.digest};
    SA_RETURN_IF_ERROR(CheckMove(session, row, expected, mover));
    SA_ASSIGN_OR_RETURN(bool changed, Insert(session, package));
    for (const ProvenanceRow& manifest : provenance) {
      SA_ASSIGN_OR_RETURN(const bool added, Insert(session, manifest));
      changed = changed || added;
    }
    SA_ASSIGN_OR_RETURN(const bool moved, SetTag(session, row, mover));
    return changed || moved;
  });
}

absl::StatusOr<bool> SqlPackageStore::AddProvenance(const ProvenanceRow& row) {
  return sql::Write(db_.get(), [&](Session& session) -> absl::StatusOr<bool> {
    SA_RETURN_IF_ERROR(FindPackage(session, row.name, row.subject).status());
    return Insert(session, row);
  });
}

absl::Status SqlPackageStore::MoveTag(const std::string& source_name, const TagRow& target,
                                      const std::string& expected, const TagMover& mover) {
  return db_->Write([&](Session& session) -> absl::Status {
    SA_ASSIGN_OR_RETURN(PackageRow package, FindPackage(session, source_name, target.digest));
    SA_RETURN_IF_ERROR(CheckMove(session, target, expected, mover));
    if (source_name != target.name) {
      SA_ASSIGN_OR_RETURN(const auto provenance,
                          FindProvenance(session, source_name, target.digest));
      package.name = target.name;
      SA_RETURN_IF_ERROR(Insert(session, package).status());
      for (ProvenanceRow row : provenance) {
        row.name = target.name;
        SA_RETURN_IF_ERROR(Insert(session, row).status());
      }
    }
    return SetTag(session, target, mover).status();
  });
}

absl::Status SqlPackageStore::DeleteTag(const std::string& name, const std::string& tag) {
  return db_->Write([&](Session& session) -> absl::Status {
    Statement s(session, "DELETE FROM tags WHERE name = ? AND tag = ?");
    SA_RETURN_IF_ERROR(s.Text(name).Text(tag).Run());
    return session.Changes() > 0 ? absl::OkStatus() : NoTag(name, tag);
  });
}

absl::StatusOr<TagRow> SqlPackageStore::GetTag(const std::string& name, const std::string& tag) {
  return sql::Read(db_.get(), [&](Session& session) -> absl::StatusOr<TagRow> {
    SA_ASSIGN_OR_RETURN(TagRow row, FindTag(session, name, tag));
    if (row.digest.empty()) return NoTag(name, tag);
    return row;
  });
}

absl::StatusOr<std::vector<TagRow>> SqlPackageStore::ListTags(const std::string& after_name,
                                                              const std::string& after_tag,
                                                              int limit) {
  return sql::Read(db_.get(), [&](Session& session) -> absl::StatusOr<std::vector<TagRow>> {
    Statement s(session,
                "SELECT name, tag, digest, owner FROM tags WHERE (name, tag) > (?, ?) "
                "ORDER BY name, tag LIMIT ?");
    s.Text(after_name).Text(after_tag).Int(limit > 0 ? limit : INT64_MAX);
    std::vector<TagRow> rows;
    for (;;) {
      SA_ASSIGN_OR_RETURN(const bool more, s.Step());
      if (!more) return rows;
      TagRow row;
      row.name = s.GetText();
      row.tag = s.GetText();
      row.digest = s.GetText();
      row.owner = s.GetText();
      rows.push_back(std::move(row));
    }
  });
}

absl::StatusOr<PackageRow> SqlPackageStore::GetPackage(const std::string& name,
                                                       const std::string& digest) {
  return sql::Read(db_.get(), [&](Session& session) { return FindPackage(session, name, digest); });
}

absl::StatusOr<std::vector<PackageRow>> SqlPackageStore::ListPackages() {
  return sql::Read(db_.get(), [&](Session& session) {
    Statement s(session,
                "SELECT name, digest, manifest, bytes, publish_time FROM packages "
                "ORDER BY name, digest");
    return ReadPackages(&s);
  });
}

absl::StatusOr<std::vector<ProvenanceRow>> SqlPackageStore::ListProvenance(
    const std::string& name, const std::string& subject) {
  return sql::Read(db_.get(),
                   [&](Session& session) { return FindProvenance(session, name, subject); });
}

absl::StatusOr<std::vector<PackageRow>> SqlPackageStore::ListUnreferenced(absl::Time cutoff,
                                                                          absl::Time now) {
  return sql::Read(db_.get(), [&](Session& session) {
    Statement s(
        session,
        "SELECT name, digest, manifest, bytes, publish_time FROM packages p "
        "WHERE publish_time < ? "
        "AND NOT EXISTS(SELECT 1 FROM tags t WHERE t.name = p.name AND t.digest = p.digest) "
        "AND NOT EXISTS(SELECT 1 FROM pins i WHERE i.digest = p.digest AND i.expire_time > ?) "
        "ORDER BY name, digest");
    s.Int(absl::ToUnixMicros(cutoff)).Int(absl::ToUnixMicros(now));
    return ReadPackages(&s);
  });
}

absl::Status SqlPackageStore::DeletePackages(const std::vector<PackageRow>& packages,
                                             absl::Time now) {
  return db_->Write([&](Session& session) -> absl::Status {
    for (const PackageRow& package : packages) {
      Statement s(session,
                  "DELETE FROM packages WHERE name = ? AND digest = ? AND NOT EXISTS("
                  "SELECT 1 FROM tags t WHERE t.name = packages.name "
                  "AND t.digest = packages.digest)");
      SA_RETURN_IF_ERROR(s.Text(package.name).Text(package.digest).Run());
    }
    Statement s(session, "DELETE FROM pins WHERE expire_time <= ?");
    return s.Int(absl::ToUnixMicros(now)).Run();
  });
}

absl::Status SqlPackageStore::Pin(const std::string& owner, const std::vector<std::string>& digests,
                                  absl::Time expire_time) {
  // Each once: one statement may not change a row twice.
  const std::set<std::string> distinct(digests.begin(), digests.end());
  const std::vector<std::string> all(distinct.begin(), distinct.end());
  return db_->Write([&](Session& session) -> absl::Status {
    for (size_t first = 0; first < all.size(); first += sql::kRowsAtATime) {
      const size_t count = std::min(sql::kRowsAtATime, all.size() - first);
      Statement s(session, absl::StrCat("INSERT INTO pins(owner, digest, expire_time) VALUES ",
                                        sql::ValueRows("(?, ?, ?)", count),
                                        " ON CONFLICT(owner, digest) DO UPDATE SET "
                                        "expire_time = excluded.expire_time"));
      for (size_t i = first; i < first + count; ++i) {
        s.Text(owner).Text(all[i]).Int(absl::ToUnixMicros(expire_time));
      }
      SA_RETURN_IF_ERROR(s.Run());
    }
    return absl::OkStatus();
  });
}

absl::Status SqlPackageStore::Unpin(const std::string& owner) {
  return db_->Write([&](Session& session) {
    return Statement(session, "DELETE FROM pins WHERE owner = ?").Text(owner).Run();
  });
}

absl::StatusOr<std::vector<std::string>> SqlPackageStore::LivePins(absl::Time now) {
  return sql::Read(db_.get(), [&](Session& session) -> absl::StatusOr<std::vector<std::string>> {
    Statement s(session, "SELECT DISTINCT digest FROM pins WHERE expire_time > ? ORDER BY digest");
    s.Int(absl::ToUnixMicros(now));
    std::vector<std::string> digests;
    for (;;) {
      SA_ASSIGN_OR_RETURN(const bool more, s.Step());
      if (!more) return digests;
      digests.push_back(s.GetText());
    }
  });
}

}  // namespace shiftadd::packaging
